moeplan inspect missing.mpt
