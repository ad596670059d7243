"""Latent-variable models of rows of data: variational autoencoders and their parts."""

from ritz.latent._aggregate import Aggregate, aggregate
from ritz.latent._analytic import (
    AnalyticELBO,
    Guided,
    GuidedELBO,
    analytic_elbo,
    guided,
    guided_elbo,
)
from ritz.latent._ard import ARD, ArdELBO, ard, ard_elbo, relevance
from ritz.latent._autoregressive import Autoregressive, autoregressive
from ritz.latent._balanced import Balanced, balanced
from ritz.latent._binary import Bernoulli, ContinuousBernoulli, bernoulli, continuous_bernoulli
from ritz.latent._bound import AbstractRowLoss, LatentELBO, LatentIWAE, elbo, importance
from ritz.latent._brownian import Brownian, brownian, kernel_divergence
from ritz.latent._capacity import LatentCapacity, capacity
from ritz.latent._code_law import CodeLaw, fit_codes
from ritz.latent._codebook import Codebook, codebook
from ritz.latent._correlation import (
    LatentParts,
    density_gap,
    total_correlation,
)
from ritz.latent._counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    multinomial,
    negative_binomial,
    poisson,
)
from ritz.latent._denoising import denoising_elbo
from ritz.latent._diagnosis import LatentDiagnosis
from ritz.latent._dip import dip
from ritz.latent._dirichlet import Dirichlet, dirichlet, shares
from ritz.latent._disentanglement import (
    DCI,
    dci,
    factor_vae_score,
    mutual_information_gap,
    separated_attribute_predictability,
)
from ritz.latent._divergence_target import (
    TargetDivergence,
    gaussian_quantised,
    target_divergence,
)
from ritz.latent._dynamics import Chain, LinearDynamics, linear_dynamics
from ritz.latent._encoder import (
    AbstractLaw,
    AbstractPosterior,
    AbstractTied,
    Encoder,
    diagonal,
    point,
)
from ritz.latent._ex_post import ex_post
from ritz.latent._frechet import frechet_distance
from ritz.latent._gaussian import Gaussian, gaussian
from ritz.latent._gaussian_process import Curves, GaussianProcess, gaussian_process
from ritz.latent._graph import GraphEncoder, GraphModel, graph_encoder, graph_model, node_means
from ritz.latent._half import half
from ritz.latent._hierarchy import Levels, hierarchical, levels
from ritz.latent._infovae import LatentInfo, infovae, mmd
from ritz.latent._inverse_lipschitz import Brenier, BrenierMap, InputConvex, brenier
from ritz.latent._levels import Categorical, DiscretisedLogistic, categorical, discretised_logistic
from ritz.latent._likelihood import AbstractLikelihood
from ritz.latent._manifold import (
    Manifold,
    Uniform,
    projective,
    rotations,
    sphere,
    torus,
    uniform,
    winding_numbers,
)
from ritz.latent._mixtures import VampPrior, gaussian_mixture, vamp
from ritz.latent._model import LatentModel, latent_model
from ritz.latent._networks import convolutional, mlp, residual
from ritz.latent._origin import GradientOrigin, Origin, gradient_origin
from ritz.latent._potentials import AbstractSequence, Potentials, potentials
from ritz.latent._quantised import (
    VectorQuantised,
    perplexity,
    rotated,
    straight_through,
    vector_quantised,
)
from ritz.latent._reconstruction import Reconstruction, reconstruction
from ritz.latent._sequences import MaskedELBO, Stepwise, forecast, masked_elbo, stepwise
from ritz.latent._siren import Siren, places, siren
from ritz.latent._sliced import squared_sliced_wasserstein
from ritz.latent._swae import LatentSliced, Samplable, samplable, swae
from ritz.latent._traversal import interpolation, traversal
from ritz.latent._unscented import LatentUnscented, sigma_points, squared_wasserstein, unscented
from ritz.latent._vae import VAE

__all__ = [
    "ARD",
    "DCI",
    "VAE",
    "AbstractLaw",
    "AbstractLikelihood",
    "AbstractPosterior",
    "AbstractRowLoss",
    "AbstractSequence",
    "AbstractTied",
    "Aggregate",
    "AnalyticELBO",
    "ArdELBO",
    "Autoregressive",
    "Balanced",
    "Bernoulli",
    "Brenier",
    "BrenierMap",
    "Brownian",
    "Categorical",
    "Chain",
    "CodeLaw",
    "Codebook",
    "ContinuousBernoulli",
    "Curves",
    "Dirichlet",
    "DiscretisedLogistic",
    "Encoder",
    "Gaussian",
    "GaussianProcess",
    "GradientOrigin",
    "GraphEncoder",
    "GraphModel",
    "Guided",
    "GuidedELBO",
    "InputConvex",
    "LatentCapacity",
    "LatentDiagnosis",
    "LatentELBO",
    "LatentIWAE",
    "LatentInfo",
    "LatentModel",
    "LatentParts",
    "LatentSliced",
    "LatentUnscented",
    "Levels",
    "LinearDynamics",
    "Manifold",
    "MaskedELBO",
    "Multinomial",
    "NegativeBinomial",
    "Origin",
    "Poisson",
    "Potentials",
    "Reconstruction",
    "Samplable",
    "Siren",
    "Stepwise",
    "TargetDivergence",
    "Uniform",
    "VampPrior",
    "VectorQuantised",
    "aggregate",
    "analytic_elbo",
    "ard",
    "ard_elbo",
    "autoregressive",
    "balanced",
    "bernoulli",
    "brenier",
    "brownian",
    "capacity",
    "categorical",
    "codebook",
    "continuous_bernoulli",
    "convolutional",
    "dci",
    "denoising_elbo",
    "density_gap",
    "diagonal",
    "dip",
    "dirichlet",
    "discretised_logistic",
    "elbo",
    "ex_post",
    "factor_vae_score",
    "fit_codes",
    "forecast",
    "frechet_distance",
    "gaussian",
    "gaussian_mixture",
    "gaussian_process",
    "gaussian_quantised",
    "gradient_origin",
    "graph_encoder",
    "graph_model",
    "guided",
    "guided_elbo",
    "half",
    "hierarchical",
    "importance",
    "infovae",
    "interpolation",
    "kernel_divergence",
    "latent_model",
    "levels",
    "linear_dynamics",
    "masked_elbo",
    "mlp",
    "mmd",
    "multinomial",
    "mutual_information_gap",
    "negative_binomial",
    "node_means",
    "perplexity",
    "places",
    "point",
    "poisson",
    "potentials",
    "projective",
    "reconstruction",
    "relevance",
    "residual",
    "rotated",
    "rotations",
    "samplable",
    "separated_attribute_predictability",
    "shares",
    "sigma_points",
    "siren",
    "sphere",
    "squared_sliced_wasserstein",
    "squared_wasserstein",
    "stepwise",
    "straight_through",
    "swae",
    "target_divergence",
    "torus",
    "total_correlation",
    "traversal",
    "uniform",
    "unscented",
    "vamp",
    "vector_quantised",
    "winding_numbers",
]
