moeplan generate -o a.mpt -q --n-requests 80 --layers 3 --experts 256 --first-layer 3 --top-k 8 --seed 3 > gen.txt
moeplan plan a.mpt a.mpt 2:h100 --colocate --batch 8 -q -m deepseek-v3 --model-b deepseek-v3 -o A.yaml --out-b B.yaml
