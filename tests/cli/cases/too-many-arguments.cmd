moeplan inspect a b
