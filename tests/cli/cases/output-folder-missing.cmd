moeplan generate -o nowhere/t.mpt
