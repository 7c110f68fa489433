moeplan list matrices
