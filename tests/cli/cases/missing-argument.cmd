moeplan simulate plan.yaml trace.mpt
