"""`python -m resnet_bk`: the command `resnet-bk`."""

from resnet_bk.cli import main

if __name__ == "__main__":
    main()
