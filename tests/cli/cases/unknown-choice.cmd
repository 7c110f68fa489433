moeplan plan t.mpt 8:h100 --objective speed -o p.yaml
