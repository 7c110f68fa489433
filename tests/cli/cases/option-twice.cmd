moeplan plan t.mpt 8:h100 -o a -o b
