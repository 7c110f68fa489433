moeplan export plan.yaml
