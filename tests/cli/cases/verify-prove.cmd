moeplan generate -o t.mpt --n-requests 60 --tokens-per-request 12 --layers 2 --experts 8 --top-k 2 --zipf 0.9 -q --phase decode > gen.txt
moeplan plan t.mpt 3:h100 --batch 3 --steps 4 --interval-groups 0 --strategy exact -o exact.yaml -q > plan.txt
moeplan verify exact.yaml t.mpt 3:h100 --prove; echo "rc $?"
moeplan verify exact.yaml t.mpt 3:h100 --prove --work-limit 1; echo "rc $?"
moeplan verify exact.yaml t.mpt 3:h100 --prove --json
moeplan plan t.mpt 3:h100 --batch 3 --steps 4 --interval-groups 0 --strategy contiguous -o contiguous.yaml -q > plan.txt
moeplan verify contiguous.yaml t.mpt 3:h100 --prove; echo "rc $?"
# A worse placement with the certificate of the best: every number in it is derived again, and right.
python3 - << 'END'
import hashlib
import re
mine, best = (open(name).read() for name in ("contiguous.yaml", "exact.yaml"))
claim = best[best.rindex("  - kind: placement"):best.rindex("checksum: ")]
step = re.search(r"^prediction:\n.*\n  step_ns: (\d+)$", mine, re.M).group(1)
claim = re.sub(r"(value|bound)_ns: \d+", rf"\1_ns: {step}", claim)
body = mine[:mine.rindex("checksum: ")] + claim
open("false.yaml", "w").write(body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n')
END
moeplan verify false.yaml t.mpt 3:h100; echo "rc $?"
moeplan verify false.yaml t.mpt 3:h100 --prove; echo "rc $?"
moeplan verify exact.yaml --prove; echo "rc $?"
