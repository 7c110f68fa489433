moeplan plan a.mpt b.mpt 4:h100 --colocate --sources coupled -o A.yaml --out-b B.yaml
