moeplan compare t.mpt cluster.yaml
