moeplan plan t.mpt 8:h100 --batch 8x -o p.yaml
