"""Figures of scikit-learn for the cases in a JSON file: a list of {truth, scores, threshold}. Prints a list of objects."""
import json, sys, warnings
import numpy as np
from sklearn import metrics as m
from sklearn.calibration import calibration_curve

warnings.simplefilter("ignore")


def number(x):
    return float(x) if np.isfinite(x) else None


def figures(case):
    y, p = np.array(case["truth"], int), np.array(case["scores"], float)
    called = (p >= case["threshold"]).astype(int)
    fpr, tpr, _ = m.roc_curve(y, p, drop_intermediate=False)
    precision, recall, thresholds = m.precision_recall_curve(y, p)
    (tn, fp), (fn, tp) = m.confusion_matrix(y, called, labels=[0, 1])
    try:
        auc = m.roc_auc_score(y, p)
    except ValueError:
        auc = np.nan
    # calibration_curve leaves empty bins out; the counts that ECE needs are numpy's
    said_true, said = calibration_curve(y, p, n_bins=10, pos_label=1) if len(set(y)) == 2 else (None, None)
    bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], p)
    ece = sum(abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).sum() for b in set(bins)) / len(y)
    return dict(
        tp=int(tp), fn=int(fn), fp=int(fp), tn=int(tn), accuracy=m.accuracy_score(y, called),
        balancedAccuracy=m.balanced_accuracy_score(y, called), precision=m.precision_score(y, called, pos_label=1),
        recall=m.recall_score(y, called), specificity=m.recall_score(y, called, pos_label=0), f1=m.f1_score(y, called),
        mcc=m.matthews_corrcoef(y, called), auc=number(auc), averagePrecision=abs(m.average_precision_score(y, p)),
        prArea=m.auc(recall, precision), logLoss=m.log_loss(y, p, labels=[0, 1]), brier=m.brier_score_loss(y, p, pos_label=1),
        calibrationError=ece, fpr=[number(x) for x in fpr], tpr=[number(x) for x in tpr],
        prPrecision=list(precision[::-1]), prRecall=list(recall[::-1]), prThresholds=list(thresholds[::-1]),
        binTrue=None if said is None else list(said_true), binSaid=None if said is None else list(said),
    )


print(json.dumps([figures(case) for case in json.load(open(sys.argv[1]))]))
