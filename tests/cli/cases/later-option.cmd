moeplan plan t.mpt 8:h100 --forecast 3 -o p.yaml
