moeplan comprae a b
