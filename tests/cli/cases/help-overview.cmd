moeplan help
