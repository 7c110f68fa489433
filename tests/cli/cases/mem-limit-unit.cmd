moeplan list --mem-limit 2XB
