"""Which pictures answer which: the 0/1 matrix that ranking losses ask for, made from a label for each picture."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepir.errors import ShapeError

Labels = Tensor | NDArray[np.generic] | Sequence[int] | Sequence[str]
"""One label for each picture: whole numbers or names."""


def label_matrix(labels_q: Labels, labels_n: Labels | None = None, *, drop_self: bool) -> Tensor:
    """1 where a query and a picture have the same label, 0 elsewhere: (Q, N) float32 (method.md 5).

    Args:
        labels_q: A label for each query, in the order of the rows of the scores.
        labels_n: A label for each picture that is ranked, in the order of the columns; None ranks the queries
            themselves.
        drop_self: Take each query out of its own row: the result is (N, N - 1), and `without_self` does the same to
            the scores. Left in, a query is its own best answer; a 0 in its place would call it wrong.

    Raises:
        ShapeError: Labels that are not a list of whole numbers or of names, none at all, numbers against names, or
            `drop_self` with two lists, where a query has no place in its row.
    """
    if labels_n is None:
        codes_q = codes_n = _codes(labels_q)
    elif drop_self:
        message = "drop_self needs one list of labels, got two: leave labels_n out, or say drop_self=False"
        raise ShapeError(message)
    else:
        codes_q, codes_n = common_labels(labels_q, labels_n)
    matrix = (codes_q[:, None] == codes_n[None]).float()
    return without_self(matrix) if drop_self else matrix


def without_self(matrix_nn: Tensor) -> Tensor:
    """Take the diagonal out: (N, N) becomes (N, N - 1), the others of each row in their order.

    Raises:
        ShapeError: A matrix that is not square, or empty.
    """
    count = len(matrix_nn) if matrix_nn.ndim else 0
    if matrix_nn.ndim != 2 or matrix_nn.shape != (count, count) or not count:
        message = f"only a square matrix has each query in its own row, got the shape {tuple(matrix_nn.shape)}"
        raise ShapeError(message)
    # without its last value the matrix is rows of one more: the diagonal is their first column
    return matrix_nn.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def common_labels(labels_q: Labels, labels_n: Labels) -> tuple[Tensor, Tensor]:
    """Two lists as whole numbers that can be compared, (Q,) and (N,): names are numbered together.

    Raises:
        ShapeError: Labels that are not lists of whole numbers or of names, none at all, or numbers against names.
    """
    plain_q, plain_n = _plain(labels_q), _plain(labels_n)
    if isinstance(plain_q, Tensor) and isinstance(plain_n, Tensor):
        return plain_q, plain_n.to(plain_q.device)
    if isinstance(plain_q, Tensor) or isinstance(plain_n, Tensor):
        message = "both lists of labels must hold whole numbers, or both names: got one of each"
        raise ShapeError(message)
    codes = _numbered(np.concatenate([plain_q, plain_n]))
    return codes[: len(plain_q)], codes[len(plain_q) :]


def label_numbers(labels_n: Labels) -> NDArray[np.int64]:
    """The labels numbered from 0 in their order, (N,).

    Raises:
        ShapeError: Labels that are not a list of whole numbers or of names, or none at all.
    """
    return np.unique(_codes(labels_n).cpu().numpy(), return_inverse=True)[1].reshape(-1).astype(np.int64)


def batch_labels(descriptors_nd: Tensor, labels_n: Tensor) -> Tensor:
    """The labels of a batch on the descriptors' device, (N,), checked against the descriptors.

    Raises:
        ShapeError: Descriptors that are not (N, D), labels that are not N whole numbers.
    """
    if descriptors_nd.ndim != 2 or not len(descriptors_nd):
        message = f"descriptors must have the shape (N, D) with N of 1 or more, got {tuple(descriptors_nd.shape)}"
        raise ShapeError(message)
    codes = _codes(labels_n)
    if len(codes) != len(descriptors_nd):
        message = f"a label is needed for each descriptor: got {len(codes)} labels for {len(descriptors_nd)}"
        raise ShapeError(message)
    return codes.to(descriptors_nd.device)


def _codes(labels: Labels) -> Tensor:
    plain = _plain(labels)
    return plain if isinstance(plain, Tensor) else _numbered(plain)


def _numbered(names: NDArray[np.str_]) -> Tensor:
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].reshape(-1))


def _plain(labels: Labels) -> Tensor | NDArray[np.str_]:
    """Whole numbers as a tensor, names as an array; anything else is refused."""
    if isinstance(labels, Tensor):
        whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        _check(tuple(labels.shape), str(labels.dtype).removeprefix("torch."), right=whole)
        return labels
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.empty(len(labels), object)
    # text beside numbers would silently become text, so a list is asked value by value
    named = array.ndim == 1 and array.dtype.kind in "UO" and all(isinstance(label, str) for label in labels)
    _check(array.shape, str(array.dtype), right=named or array.dtype.kind in "iu")
    return array.astype(np.str_) if named else torch.from_numpy(array.astype(np.int64))


def _check(shape: tuple[int, ...], kind: str, *, right: bool) -> None:
    if len(shape) != 1 or not shape[0]:
        message = f"labels must be a list with one label for each picture, got the shape {shape}"
        raise ShapeError(message)
    if not right:
        message = f"labels must be whole numbers, or all of them names, got {kind}"
        raise ShapeError(message)
