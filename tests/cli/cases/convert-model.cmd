moeplan convert mixtral-8x7b m.yaml; ls
