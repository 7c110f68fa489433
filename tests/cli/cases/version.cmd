moeplan --version
