//! The images on the machine: what the host tests of the services promise must hold where it counts. Needs /dev/kvm.

mod guest;
mod kv;
mod node;
mod script;
mod services;
mod stress;

use quorate_guest_images::ALL;
use quorate_guest_images::specimen::{FORBIDDEN, image_with};
use quorate_vmm::{Exit, Image, Machine};

#[test]
fn every_image_is_admitted() {
    for image in ALL {
        let admitted = Image::admit(image.elf).unwrap_or_else(|error| panic!("{image:?}: {error}"));
        assert_eq!(admitted.digest().as_bytes(), &image.digest());
    }
}

#[test]
fn a_specimen_with_any_forbidden_instruction_is_refused_by_its_name() {
    for (mnemonic, bytes) in FORBIDDEN {
        let error = Image::admit(&image_with(bytes)).expect_err(mnemonic);
        let instruction = error.instruction().unwrap_or_else(|| panic!("{mnemonic}: {error}"));
        assert_eq!((error.kind(), instruction.mnemonic.as_str()), ("ImageInvalid", *mnemonic));
    }
}

#[test]
fn a_specimen_without_one_is_admitted_and_exits() {
    let image = Image::admit(&image_with(&[0x90])).expect("a valid image");
    let mut machine = Machine::boot(&image, 8 << 20).expect("/dev/kvm is needed");
    assert_eq!(machine.run().expect("the machine runs"), Exit::Finished { code: 0 });
}
