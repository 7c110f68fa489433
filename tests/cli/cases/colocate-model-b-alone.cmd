moeplan compare a.mpt 4:h100 --model-b mixtral-8x7b
