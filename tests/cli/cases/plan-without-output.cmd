moeplan plan t.mpt 8:h100
