"""What a certificate says in words; the same in every certificate, but for the numbers of its statement.

No adjectives and no legal claims: a reader who knows the law or the attacker better than we do decides.
"""

from __future__ import annotations

FORMAT = "fedpdiff-certificate/1"
TRUST = (
    "local: no trust in the server, the other clients or whoever they give the release to. It rests on the "
    "code and the machine that made the release; where the server ships the client's code, on the server"
)
MECHANISM = (
    "clip to L2 norm C around the centre; multiply by sqrt(alpha_bar) and round toward zero to a grid of "
    "2^-12; add round(sigma Z) with sigma = sqrt(1 - alpha_bar) in steps of the grid; saturate at 32767 steps"
)
NOISE = {
    "sampler": "integers distributed exactly as round(sigma Z), Z standard normal, by inversion of its CDF",
    "grid": "2^-12",
    "rng": "the operating system's cryptographic generator",
    "simulation": False,
}
DISCLOSED_IN_CLEAR = [
    "the label of every image",
    "the number of images, of images of each class, and of exact duplicates left out",
    "the settings in this file, the site's name and the time of the release",
    "how often images were noised, and how many images of one person there are at most, where it is counted",
]
NOT_PROTECTED = [
    "the client's personal denoiser and whatever is made with it: samples, scores, losses",
    "a person with several images, beyond per_person",
    "what many images of the client share, such as the mean image of a class",
    "labels and numbers of images",
    "whatever else is sent, from this site or another, about the same image or person",
]


def statement(
    images: int, epsilon: float, delta: float, self_test_delta: float, noisings: int, epsilon_total: float
) -> str:
    """Return the sentence that a certificate begins with.

    Parameters
    ----------
    images
        How many there are.
    epsilon, delta
        Of one noisy copy of an image; epsilon rounded up.
    self_test_delta
        What the self-test of one noisy copy adds to delta.
    noisings, epsilon_total
        Noisy copies of one image that were ever made, at most, and their epsilon together, rounded up.
    """
    words = (
        f"One noisy copy of each of {images} images. Replacing an image's pixels by any others, its label "
        "and the number of images unchanged, changes the probability of any outcome, whatever is computed "
        f"from the copies, by at most a factor of e^{epsilon:.3f} plus {delta!r} (plus {self_test_delta!r} "
        "for the self-test of the noise)."
    )
    if noisings > 1:
        words += (
            f" For all noisy copies of an image together that were ever made here, at most {noisings}, the "
            f"factor is e^{epsilon_total:.3f}, and the self-tests add {noisings} times as much."
        )
    return words + " Nothing else is promised."
