moeplan list --help
