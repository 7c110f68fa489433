moeplan list plans
