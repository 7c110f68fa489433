cd "$SOURCE/topologies/other" && moeplan inspect hwloc-a100-n1g4.xml | grep -vE "^ " && moeplan convert 2xhwloc-a100-n1g4.xml:a100 - | sed -n "/^levels/,\$p"; moeplan inspect 2xhwloc-a100-n1g4.xml
