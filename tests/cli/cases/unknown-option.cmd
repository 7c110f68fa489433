moeplan plan t.mpt 8:h100 --redundnat 8 -o p.yaml
