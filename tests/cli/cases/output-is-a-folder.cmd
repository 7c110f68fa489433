mkdir there && moeplan generate -o there
