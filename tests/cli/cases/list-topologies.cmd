moeplan list topologies
