moeplan list exports
