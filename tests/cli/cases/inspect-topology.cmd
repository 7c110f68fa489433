moeplan inspect 2x4:h100
