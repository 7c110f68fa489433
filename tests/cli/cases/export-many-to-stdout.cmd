moeplan export plan.yaml t.mpt 8:h100 --to nccl-tests
