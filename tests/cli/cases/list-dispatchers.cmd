moeplan list dispatchers
