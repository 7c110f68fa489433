moeplan help pln
