"""Train a shallow network, double its depth without changing its function, and train on.

Example: python examples/refine_in_depth.py
"""

import torch
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.data import ImageBatches, load_dataset


def epochs(net: db.DynamicNet, batches: ImageBatches, first: int, last: int) -> float:
    """Train from epoch ``first`` to ``last`` and return the mean loss of the last."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    net.train()
    losses = []
    for epoch in range(first, last):
        losses = []
        for images, labels in batches.training(epoch):
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def accuracy(net: db.DynamicNet, batches: ImageBatches) -> float:
    """Share of images classified rightly."""
    net.eval()
    with torch.inference_mode():
        right = [(net(images).argmax(dim=1) == labels).float().sum() for images, labels in batches.evaluation()]
    return sum(right).item() / len(batches.split)


def main() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    train = ImageBatches(data.train, 64, data.mean, data.std)
    validation = ImageBatches(data.validation, 64, data.mean, data.std)

    shallow = db.create_model("dynamicnet", in_channels=1, widths=(8, 16), units=1, integrator="midpoint")
    print(f"1 unit a block:  loss {epochs(shallow, train, 0, 4):.3f}, accuracy {accuracy(shallow, validation):.1%}")

    same = db.refine(shallow, steps=False)
    print(f"twice the weights, same steps: accuracy {accuracy(same, validation):.1%} (the same function)")

    deep = db.refine(shallow)
    print(f"2 units a block: accuracy {accuracy(deep, validation):.1%} before any further training")
    print(f"                 loss {epochs(deep, train, 4, 8):.3f}, accuracy {accuracy(deep, validation):.1%} after it")


if __name__ == "__main__":
    main()
