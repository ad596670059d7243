"""Latent-variable models of rows of data: variational autoencoders and their parts."""

from ritz.latent._analytic import (
    AnalyticELBO,
    Guided,
    GuidedELBO,
    analytic_elbo,
    guided,
    guided_elbo,
)
from ritz.latent._ard import ARD, ArdELBO, ard, ard_elbo, relevance
from ritz.latent._balanced import Balanced, balanced
from ritz.latent._binary import Bernoulli, ContinuousBernoulli, bernoulli, continuous_bernoulli
from ritz.latent._bound import AbstractRowLoss, LatentELBO, LatentIWAE, elbo, importance
from ritz.latent._capacity import LatentCapacity, capacity
from ritz.latent._codebook import Codebook, codebook
from ritz.latent._counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    multinomial,
    negative_binomial,
    poisson,
)
from ritz.latent._diagnosis import LatentDiagnosis
from ritz.latent._disentanglement import mutual_information_gap, separated_attribute_predictability
from ritz.latent._divergence_target import (
    TargetDivergence,
    gaussian_quantised,
    target_divergence,
)
from ritz.latent._encoder import AbstractPosterior, Encoder, diagonal, point
from ritz.latent._ex_post import ex_post
from ritz.latent._frechet import frechet_distance
from ritz.latent._gaussian import Gaussian, gaussian
from ritz.latent._hierarchy import Levels, hierarchical, levels
from ritz.latent._inverse_lipschitz import Brenier, BrenierMap, InputConvex, brenier
from ritz.latent._levels import Categorical, DiscretisedLogistic, categorical, discretised_logistic
from ritz.latent._likelihood import AbstractLikelihood
from ritz.latent._model import LatentModel, latent_model
from ritz.latent._networks import convolutional, mlp, residual
from ritz.latent._quantised import (
    VectorQuantised,
    perplexity,
    rotated,
    straight_through,
    vector_quantised,
)
from ritz.latent._unscented import LatentUnscented, sigma_points, squared_wasserstein, unscented
from ritz.latent._vae import VAE

__all__ = [
    "ARD",
    "VAE",
    "AbstractLikelihood",
    "AbstractPosterior",
    "AbstractRowLoss",
    "AnalyticELBO",
    "ArdELBO",
    "Balanced",
    "Bernoulli",
    "Brenier",
    "BrenierMap",
    "Categorical",
    "Codebook",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Encoder",
    "Gaussian",
    "Guided",
    "GuidedELBO",
    "InputConvex",
    "LatentCapacity",
    "LatentDiagnosis",
    "LatentELBO",
    "LatentIWAE",
    "LatentModel",
    "LatentUnscented",
    "Levels",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "TargetDivergence",
    "VectorQuantised",
    "analytic_elbo",
    "ard",
    "ard_elbo",
    "balanced",
    "bernoulli",
    "brenier",
    "capacity",
    "categorical",
    "codebook",
    "continuous_bernoulli",
    "convolutional",
    "diagonal",
    "discretised_logistic",
    "elbo",
    "ex_post",
    "frechet_distance",
    "gaussian",
    "gaussian_quantised",
    "guided",
    "guided_elbo",
    "hierarchical",
    "importance",
    "latent_model",
    "levels",
    "mlp",
    "multinomial",
    "mutual_information_gap",
    "negative_binomial",
    "perplexity",
    "point",
    "poisson",
    "relevance",
    "residual",
    "rotated",
    "separated_attribute_predictability",
    "sigma_points",
    "squared_wasserstein",
    "straight_through",
    "target_divergence",
    "unscented",
    "vector_quantised",
]
