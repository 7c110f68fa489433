# What is wrong with a plan's training section is bad input, by the plan's name.
moeplan generate -q --phase train --layers 3 --experts 8 --top-k 2 --n-requests 64 --tokens-per-request 64 -o t.mpt > out
moeplan plan t.mpt 4:a100 --strategy contiguous --tokens-per-rank 256 --interval-groups 0 -q -o p.yaml > out
edit() { python3 -c '
import hashlib, re, sys
text = re.sub(sys.argv[1], sys.argv[2], open("p.yaml").read(), flags=re.S)
body = text[:text.rindex("checksum: ")]
open("q.yaml", "w").write(body + "checksum: \"%s\"\n" % hashlib.sha256(body.encode()).hexdigest())' "$@"; }
edit 'a2a_chunk_bytes: \d+' 'a2a_chunk_bytes: 1'; moeplan simulate q.yaml t.mpt 4:a100 -q; echo $?
edit '  buckets:\n.*prediction:' '  buckets: []\nprediction:'; moeplan simulate q.yaml t.mpt 4:a100 -q; echo $?
