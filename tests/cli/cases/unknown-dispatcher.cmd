moeplan plan t.mpt 8:h100 --dispatcher deepep -o p.yaml
