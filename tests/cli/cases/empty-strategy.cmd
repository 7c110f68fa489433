moeplan compare t.mpt 8:h100 --strategy contiguous,
