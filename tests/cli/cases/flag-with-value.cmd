moeplan list --json=yes
