"""Logistic regression, by scikit-learn. The only file that knows it."""

import contextlib

import numpy as np
from threadpoolctl import threadpool_limits


def one_blas_thread() -> contextlib.AbstractContextManager[object]:
    """For fits side by side: each of them leaves the number of BLAS threads as it found it, and it must be 1."""
    import sklearn.linear_model  # noqa: F401 - it loads a BLAS of its own

    return threadpool_limits(1)


def fit_logistic(
    rows: np.ndarray, right: np.ndarray, *, inverse_penalty: float, balanced: bool = False
) -> tuple[np.ndarray, float]:
    """Fits P(right) = sigmoid(rows . coefficients + intercept). The same bits on any number of cores.

    Args:
        rows: float64 (n, f). right: bool (n,), with both answers in it.
        inverse_penalty: of the squared coefficients; a larger one fits closer.
        balanced: weigh both answers alike, however many rows each has.

    Returns:
        (coefficients float64 (f,), intercept).
    """
    from sklearn.linear_model import LogisticRegression  # half a second that most rules need not spend

    # After the import, which loads a BLAS of its own: on several threads it sums in another order.
    with threadpool_limits(1):
        weight = "balanced" if balanced else None
        model = LogisticRegression(C=inverse_penalty, max_iter=500, tol=1e-6, class_weight=weight).fit(rows, right)
    return model.coef_[0], float(model.intercept_[0])
