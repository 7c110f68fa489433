moeplan verify plan.yaml trace.mpt
