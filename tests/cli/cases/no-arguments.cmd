moeplan
