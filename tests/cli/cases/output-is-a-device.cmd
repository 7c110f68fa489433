moeplan generate -o /dev/null; ls -l /dev/null | cut -c1
