//! The real guest images and the specimens that come with them.

use crate::image::{Image, ImageError};
use quorate_guest_images::{ALL, specimen};

#[test]
fn the_guest_images_are_admitted_under_their_digests() {
    for guest in ALL {
        let image = Image::admit(guest.elf).unwrap_or_else(|error| panic!("{}: {error}", guest.name));
        assert_eq!(*image.digest().as_bytes(), guest.digest(), "{}", guest.name);
        let (name, _) = image.symbol_of(image.entry()).expect("the entry point has a symbol");
        assert_eq!(name, "_start");
        let started = std::time::Instant::now();
        let again = Image::admit(guest.elf);
        let text = image.extents()[0].bytes;
        println!(
            "{}: {text} bytes of text admitted in {:?}: {}",
            guest.name,
            started.elapsed(),
            again.is_ok()
        );
    }
}

#[test]
fn every_specimen_is_refused_at_its_place_and_by_its_name() {
    assert!(Image::admit(&specimen::image_with(&[])).is_ok());
    for (mnemonic, bytes) in specimen::FORBIDDEN {
        let elf = specimen::image_with(&[&[0x90; 5], *bytes].concat());
        let Err(ImageError::Instruction(bad)) = Image::admit(&elf) else {
            panic!("{mnemonic} ({bytes:x?}) was not refused");
        };
        assert_eq!((bad.mnemonic.as_str(), bad.address), (*mnemonic, specimen::TEXT + 5), "{bytes:x?}");
        let at = bad.offset as usize;
        assert_eq!(&elf[at..at + bytes.len()], *bytes, "the file offset of {mnemonic}");
    }
}

#[test]
fn a_damaged_guest_image_is_refused_or_has_another_digest() {
    let original = ALL[0];
    for at in (4096..original.elf.len()).step_by(original.elf.len() / 50) {
        let mut elf = original.elf.to_vec();
        elf[at] ^= 0x10;
        if let Ok(image) = Image::admit(&elf) {
            assert_ne!(*image.digest().as_bytes(), original.digest(), "byte {at}");
        }
    }
}
