moeplan convert 2:h100 two.yaml && moeplan inspect two.yaml | grep -v sha256 && moeplan convert two.yaml again.yaml -q >/dev/null && cmp two.yaml again.yaml && echo same
