use super::*;
use crate::devices::emulated;

/// An output of three rows of five in poisoned memory, every element 1, and then some of its buffer changed.
fn judged(change: impl FnOnce(&mut [f32], &Operand<f32>)) -> [Option<String>; 3] {
    let device = emulated(0);
    let mut arena = Arena::new(&device, Memory::Poisoned(7));
    let mut d = arena.output::<f32>((3, 5), Align(16)).unwrap();
    let Room::Buffer(buffer) = &d.room else { unreachable!() };
    let mut host = buffer.to_vec().unwrap();
    (0..3).for_each(|row| host[d.offset + row * d.pitch..][..5].fill(1.0));
    change(&mut host, &d);
    d.room = Room::Buffer(device.upload(&host).unwrap());
    [d.written("d"), d.guarded("d"), d.equals("bits", "d", &[1.0; 15])].map(|check| check.unwrap().failure)
}

#[test]
fn what_was_written_as_it_should_passes() {
    assert_eq!(judged(|_, _| {}), [None, None, None]);
}

#[test]
fn an_element_that_was_not_written_is_named() {
    let [written, guarded, equals] = judged(|host, d| host[d.offset + d.pitch + 2] = f32::SENTINEL);
    assert_eq!(written.unwrap(), "d[1, 2] was not written");
    assert_eq!(guarded, None);
    assert!(equals.unwrap().starts_with("d[1, 2]: expected 1.0"));
}

#[test]
fn a_write_before_between_and_behind_the_rows_is_found() {
    let places: [fn(&Operand<f32>) -> usize; 3] =
        [|d| d.offset - 1, |d| d.offset + 5, |d| d.offset + 2 * d.pitch + 5];
    for place in places {
        let mut i = 0;
        let failures = judged(|host, d| {
            i = place(d);
            host[i] = 0.0;
        });
        assert_eq!(failures, [(); 3].map(|()| Some(format!("element {i} around d was written"))));
    }
}
