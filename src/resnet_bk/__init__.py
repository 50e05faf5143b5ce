"""ResNet-BK: sequence mixing by the resolvent of a learned tridiagonal operator.

Importing this package imports nothing heavy and compiles nothing; use the subpackages:

- ``resnet_bk.ops``: differentiable operators on tridiagonal operators, linear in the number of sites
- ``resnet_bk.models``: ResNet-BK as a Hugging Face causal language model
- ``resnet_bk.bench``: training and comparison on equal budgets (command line: ``resnet-bk bench``)
"""

__version__ = "0.1.0"
