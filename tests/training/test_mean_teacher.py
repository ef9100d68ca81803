import pytest
import torch
from torch import nn

from aps_components.training import MeanTeacher


class Student(nn.Module):
    """One number, and one buffer."""

    def __init__(self, value=7.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.register_buffer("seen", torch.tensor(0))
        self.dropout = nn.Dropout()


def teach(values, *, decay):
    """The teacher's value after a student that takes these values one after the other."""
    student = Student()
    teacher = MeanTeacher(student, decay=decay)
    for value in values:
        with torch.no_grad():
            student.value.fill_(value)
        teacher.update_parameters(student)
    return teacher.module.value.item()


def test_first_updates_are_a_plain_mean_without_the_random_start():
    values = [1.0, 2.0, 6.0, 11.0]
    for count in range(1, 5):
        assert teach(values[:count], decay=0.99) == pytest.approx(sum(values[:count]) / count)


def test_later_updates_are_exponential():
    # Decay 0.75 is reached by the fourth update: 1 - 1 / 4. Until then the plain mean.
    values = [1.0, 2.0, 6.0, 11.0, 20.0, -4.0]
    expected = sum(values[:4]) / 4
    for value in values[4:]:
        expected = 0.75 * expected + 0.25 * value
    assert teach(values, decay=0.75) == pytest.approx(expected)


def test_without_decay_the_teacher_is_the_student():
    assert teach([3.0, 5.0, -2.0], decay=0.0) == -2.0


def test_buffers_are_copied():
    student = Student()
    teacher = MeanTeacher(student, decay=0.9)
    for count in (3, 8):
        student.seen.fill_(count)
        teacher.update_parameters(student)
        assert teacher.module.seen.item() == count


def test_teacher_starts_as_a_copy_that_shares_nothing():
    student = Student()
    teacher = MeanTeacher(student)
    assert teacher.module.value.item() == 7.0
    with torch.no_grad():
        student.value.fill_(1.0)
    assert teacher.module.value.item() == 7.0


def test_teacher_never_trains():
    teacher = MeanTeacher(Student().train())
    assert not any(part.training for part in teacher.modules())
    teacher.train()
    nn.Sequential(teacher).train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_goes_on_from_its_state():
    student = Student()
    whole, first = MeanTeacher(student, decay=0.9), MeanTeacher(student, decay=0.9)
    values = [1.0, 4.0, -3.0, 8.0]
    for teacher, seen in ((whole, values), (first, values[:2])):
        for value in seen:
            with torch.no_grad():
                student.value.fill_(value)
            teacher.update_parameters(student)
    second = MeanTeacher(Student(value=0.0), decay=0.9)
    second.load_state_dict(first.state_dict())
    for value in values[2:]:
        with torch.no_grad():
            student.value.fill_(value)
        second.update_parameters(student)
    assert torch.equal(second.module.value, whole.module.value)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema_decay {decay} must lie in"):
        MeanTeacher(Student(), decay=decay)
