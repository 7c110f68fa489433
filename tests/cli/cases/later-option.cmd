moeplan plan t.mpt 8:h100 --colocate other.mpt -o p.yaml
