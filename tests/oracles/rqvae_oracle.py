"""RQ-VAE in slow NumPy, one row, one code and one derivative at a time (float64)."""

from __future__ import annotations

import numpy as np


def quantise(latents: np.ndarray, codebooks: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Codes [B, L], the residual before each level, and the sum of the chosen vectors."""
    codes = np.zeros((len(latents), len(codebooks)), dtype=np.int64)
    residuals = [np.zeros_like(latents) for _ in codebooks]
    total = np.zeros_like(latents)
    for row, latent in enumerate(latents):
        rest = latent.copy()
        for level, codebook in enumerate(codebooks):
            residuals[level][row] = rest
            codes[row, level] = min(range(len(codebook)), key=lambda code: float(((rest - codebook[code]) ** 2).sum()))
            total[row] += codebook[codes[row, level]]
            rest = rest - codebook[codes[row, level]]
    return codes, residuals, total


def loss_and_gradients(
    vectors: np.ndarray, latents: np.ndarray, codebooks: list[np.ndarray], decoder: np.ndarray, beta: float
) -> tuple[dict[str, float], np.ndarray, list[np.ndarray], np.ndarray]:
    """The terms; d loss / d z, d loss / d B_l and d loss / d decoder, by hand, for e^ = decoder @ z-with-the-codes.

    To z go the decoder's gradient at the codes, as it is, and the commitment; to B_l the codebook term alone.
    """
    (num_rows, width), latent_width = vectors.shape, latents.shape[1]
    codes, residuals, total = quantise(latents, codebooks)
    terms = {"reconstruction": 0.0, "codebook": 0.0, "commitment": 0.0}
    to_latents, to_decoder = np.zeros_like(latents), np.zeros_like(decoder)
    to_codebooks = [np.zeros_like(codebook) for codebook in codebooks]
    for row in range(num_rows):
        error = decoder @ total[row] - vectors[row]
        terms["reconstruction"] += float(error @ error) / (num_rows * width)
        to_decoder += 2 * np.outer(error, total[row]) / (num_rows * width)
        to_latents[row] += 2 * decoder.T @ error / (num_rows * width)
        for level, codebook in enumerate(codebooks):
            code = codes[row, level]
            gap = residuals[level][row] - codebook[code]
            terms["codebook"] += float(gap @ gap) / (num_rows * latent_width)
            terms["commitment"] += beta * float(gap @ gap) / (num_rows * latent_width)
            to_latents[row] += 2 * beta * gap / (num_rows * latent_width)
            to_codebooks[level][code] -= 2 * gap / (num_rows * latent_width)
    return terms, to_latents, to_codebooks, to_decoder


def sinkhorn(distances: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """LC-Rec's loop in plain probabilities."""
    middle, half = (distances.max() + distances.min()) / 2, (distances.max() - distances.min()) / 2 + 1e-5
    plan = np.exp(-(distances - middle) / half / epsilon)
    num_rows, num_codes = plan.shape
    for _ in range(iterations):
        for row in range(num_rows):
            plan[row] /= plan[row].sum()
        for code in range(num_codes):
            plan[:, code] *= num_rows / num_codes / plan[:, code].sum()
    return plan


def moving_average(
    codebook: np.ndarray, counts: np.ndarray, sums: np.ndarray, residuals: np.ndarray, codes: np.ndarray, decay: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codebook, counts, sums = codebook.copy(), counts.copy(), sums.copy()
    for code in range(len(codebook)):
        mine = [residual for residual, chosen in zip(residuals, codes, strict=True) if chosen == code]
        counts[code] = decay * counts[code] + (1 - decay) * len(mine)
        sums[code] = decay * sums[code] + (1 - decay) * sum(mine, np.zeros(codebook.shape[1]))
        if mine:
            codebook[code] = sums[code] / counts[code]
    return codebook, counts, sums


def cosine_codes(latents: np.ndarray, codebooks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the largest cosine, and what is left after the last level."""
    codes, rests = np.zeros((len(latents), len(codebooks)), dtype=np.int64), latents.copy()
    for row, rest in enumerate(rests):
        for level, codebook in enumerate(codebooks):
            cosines = [float(rest @ code / np.sqrt((rest @ rest) * (code @ code))) for code in codebook]
            codes[row, level] = int(np.argmax(cosines))
            rest -= codebook[codes[row, level]]
    return codes, rests


def alignment(quantised: np.ndarray, collaborative: np.ndarray) -> tuple[float, np.ndarray]:
    """InfoNCE over the items with a vector, pair by pair; and its derivative by the quantised embeddings."""
    known = [row for row in range(len(quantised)) if collaborative[row].any()]
    total, gradient = 0.0, np.zeros_like(quantised)
    for row in known:
        weights = {other: np.exp(quantised[row] @ collaborative[other]) for other in known}
        total -= np.log(weights[row] / sum(weights.values())) / len(known)
        expected = sum(weights[other] * collaborative[other] for other in known) / sum(weights.values())
        gradient[row] = (expected - collaborative[row]) / len(known)
    return float(total), gradient


def diversity(codebook: np.ndarray, codes: np.ndarray, partners: np.ndarray) -> float:
    """Towards the partner, against all codes but the own one."""
    total = 0.0
    for code, partner in zip(codes, partners, strict=True):
        others = [np.exp(codebook[code] @ codebook[other]) for other in range(len(codebook)) if other != code]
        total -= np.log(np.exp(codebook[code] @ codebook[partner]) / sum(others)) / len(codes)
    return float(total)
