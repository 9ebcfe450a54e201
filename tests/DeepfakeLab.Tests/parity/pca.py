"""scikit-learn's PCA of the matrix in a JSON file, and how well its t-SNE keeps neighbours there."""
import json, sys
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

x = np.array(json.load(open(sys.argv[1])))
plane = TSNE(perplexity=15, init="pca", learning_rate="auto", random_state=0, method="exact", n_iter=500).fit_transform(x)
out = {"pca": PCA(3, svd_solver="full").fit_transform(x).tolist(), "trust": trustworthiness(x, plane, n_neighbors=8)}
if len(sys.argv) > 2:
    out["ours"] = trustworthiness(x, np.array(json.load(open(sys.argv[2]))), n_neighbors=8)
print(json.dumps(out))
